"""Domains as libvirt 9.0 writes them (`virsh dumpxml`), with what a replica's site must not take over."""

from __future__ import annotations

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"

_HEAD = f"""\
<domain type='kvm'{{id}} xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web-1</name>
  <uuid>{UUID}</uuid>
  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
      <libosinfo:os id="http://debian.org/debian/12"/>
    </libosinfo:libosinfo>
  </metadata>
  <memory unit='KiB'>2097152</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>
{{nvram}}
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='host-passthrough' check='none' migratable='on'/>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
"""
_TAIL = """\
    <controller type='scsi' index='0' model='virtio-scsi'>
      <address type='pci' domain='0x0000' bus='0x03' slot='0x00' function='0x0'/>
    </controller>
    <interface type='network'>
      <mac address='52:54:00:6b:3c:58'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
    <tpm model='tpm-crb'>
      <backend type='emulator' version='2.0'/>
    </tpm>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-nodefaults'/>
  </qemu:commandline>
</domain>
"""
NVRAM = "    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/web-1_VARS.fd</nvram>"
NVRAM_OF_A_TYPE = """\
    <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd' type='file'>
      <source file='/var/lib/libvirt/qemu/nvram/web-1_VARS.fd'/>
    </nvram>"""

_VDA = """\
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' io='native' discard='unmap'>
        <metadata_cache>
          <max_size unit='bytes'>1234</max_size>
        </metadata_cache>
      </driver>
      <source file='/srv/web-1.qcow2'{index}/>
{behind}
      <target dev='vda' bus='virtio'/>
      <serial>disk-0001</serial>
      <boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
    </disk>
"""
_SDA = """\
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/vg0/web-1-data'{index}/>
{behind}
      <target dev='sda' bus='scsi'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
"""
_REST = """\
    <disk type='file' device='disk'>
      <source file='/srv/scratch.img'/>
      <target dev='hda' bus='sata'/>
      <address type='drive' controller='0' bus='0' target='0' unit='1'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/shared--all.img'/>
      <target dev='sdb' bus='scsi'/>
      <shareable/>
      <address type='drive' controller='0' bus='0' target='0' unit='1'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/debian-12.iso'/>
      <target dev='sdc' bus='sata'/>
      <readonly/>
      <address type='drive' controller='0' bus='0' target='0' unit='2'/>
    </disk>
    <disk type='file' device='cdrom'>
      <target dev='sdd' bus='sata'/>
      <readonly/>
      <address type='drive' controller='0' bus='0' target='0' unit='3'/>
    </disk>
"""
_BACKING = """\
      <backingStore type='file' index='3'>
        <format type='qcow2'/>
        <source file='/srv/base.qcow2'/>
        <backingStore/>
      </backingStore>
"""
_MIRROR = """\
      <mirror type='network' job='copy' ready='yes'>
        <format type='raw'/>
        <source protocol='nbd' name='sda' index='6'>
          <host transport='unix' socket='/run/vmferry/tap.sock'/>
        </source>
      </mirror>"""


def machine(nvram: str = NVRAM) -> str:
    """Inactive: two disks that are captured, vda and sda, one that is not known here, and what is never captured."""
    disks = _VDA.format(index="", behind="") + _SDA.format(index="", behind="") + _REST
    return _HEAD.format(id="", nvram=nvram) + disks + _TAIL


def running() -> str:
    """The same while it runs, with backing files, and a mirror that is ready."""
    vda = _VDA.format(index=" index='2'", behind=_BACKING.rstrip("\n"))
    return (
        _HEAD.format(id=" id='7'", nvram=NVRAM)
        + vda
        + _SDA.format(index=" index='1'", behind=f"      <backingStore/>\n{_MIRROR}")
        + _REST
        + _TAIL
    )


DATA_FILE = """\
<domain type='kvm'>
  <name>data</name>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' discard='unmap' discard_no_unref='on'/>
      <source file='/srv/data.qcow2'>
        <dataStore type='file'>
          <format type='raw'/>
          <source file='/srv/data.raw'/>
        </dataStore>
      </source>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""
ENCRYPTED = """\
<domain type='kvm'>
  <name>secret</name>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/secret.luks'>
        <encryption format='luks'>
          <secret type='passphrase' uuid='f52a81b2-424e-490c-823d-6bd4235bc572'/>
        </encryption>
      </source>
      <target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""
LUN = """\
<domain type='kvm'>
  <name>lun</name>
  <devices>
    <disk type='block' device='lun' rawio='yes' sgio='unfiltered'>
      <driver name='qemu' type='raw'/>
      <source dev='/dev/sdq'>
        <reservations managed='yes'/>
      </source>
      <target dev='sda' bus='scsi'/>
    </disk>
  </devices>
</domain>
"""
