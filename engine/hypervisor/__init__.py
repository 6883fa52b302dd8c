"""Virtual machines as libvirt has them."""
