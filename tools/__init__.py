"""Programs that judge the source tree."""
