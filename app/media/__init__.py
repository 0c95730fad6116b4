"""Pictures, video files and the storage that keeps them."""
