"""From a data set's official files to a folder that its reader accepts: fetched, unpacked, checked, decoded once."""
