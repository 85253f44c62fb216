"""Why a key of an alert fires or not, and what became of its notifications: from facts to sentences. Pure.

Reading order: `keys` (which key is meant), `facts` (what is known), `explanation` (the result), `alerts`, `routes`,
`lives` (how it comes about).
"""
