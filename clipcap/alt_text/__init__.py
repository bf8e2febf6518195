"""Alternative text for a static site's images: proposed, reviewed, and filled in without another byte changed."""
