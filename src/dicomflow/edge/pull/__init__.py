"""What a PACS has, and what of it is missing here: asked, compared, fetched, and looked at again."""
