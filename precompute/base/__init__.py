"""The foundation that every package stands on: errors, options, programs, files, pixels, ranks."""
