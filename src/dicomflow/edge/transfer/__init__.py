"""What the cloud sends back to the site: asked for, fetched, sent to a destination, and told of."""
