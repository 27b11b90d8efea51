"""The small pictures beside the evidence: cut while a clip's frames are there, kept only of suspicious files."""
