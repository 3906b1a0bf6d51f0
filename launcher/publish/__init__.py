"""What a release needs: the registry's rules, the locales, the pictures of the help pages."""
