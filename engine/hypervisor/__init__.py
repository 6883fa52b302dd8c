"""Virtual machines and who runs them: `domain` says what is known of one, `connection` asks libvirt."""
