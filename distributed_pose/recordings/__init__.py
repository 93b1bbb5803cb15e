"""Maps on disk, in the files of the vendor guide and its benchmark tools."""
