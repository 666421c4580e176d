"""The record of an incident: journal, store, evidence blobs, bundle."""
