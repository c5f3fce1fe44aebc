"""The status page: what the five tiers say about themselves, as data, in words and as a picture.

Nobody tells the application where anything runs: `questions` asks the tiers, `look` puts the answers together, `watch`
makes one look do for many viewers, `picture` draws it.
"""
