"""Walks the way of a run on a card that is not there: the real code, full-size models, fake `cuda:0` tensors.

card.py counts memory and refuses what a card would refuse; order.py finds waits that were forgotten; stand_ins.py lists
what is stood in for, and why; walk.py walks. For tests: nothing of it is imported when a video is made.
"""
