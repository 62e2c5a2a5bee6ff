"""Fifteen ways to spoil an image, as arithmetic: noise, blur, weather and what cameras and files do.

Every function takes uint8 `[H, W, 3]`, RGB, of any size from 32 pixels a side on, and its strength as plain numbers,
and gives the same shape; what is drawn comes from a NumPy generator alone. Results are rounded to the nearest level.
`vitrail.data.corruptions` has the names, the five severities and the seeds. Written from the definitions of Hendrycks
and Dietterich 2019 (arXiv 1903.12261).
"""
