"""The bytes of one image: recognise, check, decode, transcode, thumbnail."""
