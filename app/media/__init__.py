"""Images, video files and the storage for both."""
