"""Reads answers: where a text claims one, and which number, letter or piece of mathematics it is."""
