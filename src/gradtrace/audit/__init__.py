"""The initialisation audit: prediction of a network's gradient growth beside its measurement; critical initialisation."""
