"""De-identified copies of objects (PS3.15 Annex E): profiles, one walk, keyed UIDs, pixels. Knows no edge, no catalog.

The seam for whoever has copies made: `settings.ProfileSettings` is a profile as settings name it,
`profile.load_profile` binds it to a site's secret and a recipient, and `copying.deidentify` makes one copy.
"""
