"""A message as Python's own reader sees it, as JSON: read_mime.py FILE"""

import email
import email.policy
import json
import sys

with open(sys.argv[1], "rb") as file:
    message = email.message_from_binary_file(file, policy=email.policy.default)
parts = [part for part in message.walk() if not part.is_multipart()]
result = {
    "headers": {name.lower(): str(value) for name, value in message.items()},
    "defects": sum(len(part.defects) for part in message.walk()),
    "parts": [
        {
            "type": part.get_content_type(),
            "filename": part.get_filename(),
            "text": part.get_payload(decode=True).decode("latin-1"),
        }
        for part in parts
    ],
}
print(json.dumps(result))
