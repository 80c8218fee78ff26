"""The initialisation audit: a network's predicted gradient growth beside the measured one; critical initialisation."""
