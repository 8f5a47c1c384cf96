"""`metalab demo`: a page on this machine for a person's own classes. page.py alone knows gradio."""
