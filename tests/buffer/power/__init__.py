"""Power loss at block level: a recorder under a real file system, and the crash states that a disk may be left in."""
