"""From the archives that the makers of a data set publish to the layout that training reads. No torch."""
