"""Images: generated scenes, folders, VOC, and a loader that resumes."""
