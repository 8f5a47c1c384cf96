"""`metalab demo`: a page on this machine for a person's own classes. session.py has the logic; page.py, layout.py and
server.py alone know gradio.
"""
