"""Benchmarks of hwnas itself: figures as ratios against a baseline in the same run, in turns."""
