#!/usr/bin/env python3
"""A person with a browser: opens the URL, logs in as $PERSON (the password is the name backwards), and follows to where that leads."""
import os
import ssl
import sys
import urllib.parse
import urllib.request

person = os.environ["PERSON"]
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=os.environ["ISSUER_CA"])))
with opener.open(sys.argv[1], timeout=30) as page:
    form = urllib.parse.urlencode({"username": person, "password": os.environ.get("PASSWORD", person[::-1])}).encode()
    login = page.url
with opener.open(login, form, timeout=30) as page:
    print(page.read().decode())
