"""`OUT/report.html`: one page that needs nothing but a browser.

`chosen` says which files are in it, `cards` and `timelines` what it says of each, `pictures` which pictures it shows,
`overview` what its first screen says; `page` puts it together with the template, the style and the scripts.
"""
