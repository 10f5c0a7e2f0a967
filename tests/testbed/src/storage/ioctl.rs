//! The ioctls behind loop devices, freezing and fscrypt: the only unsafe code of the testbed's storage.
//!
//! Every function takes an open file and owned or borrowed plain data, so callers need no unsafe.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const LOOP_CLR_FD: u32 = 0x4C01;
const LOOP_CONFIGURE: u32 = 0x4C0A;
const LOOP_CTL_GET_FREE: u32 = 0x4C82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const FIFREEZE: u32 = 0xC004_5877;
const FITHAW: u32 = 0xC004_5878;
const EXT4_IOC_SHUTDOWN: u32 = 0x8004_587D;
const SHUTDOWN_NO_LOG_FLUSH: u32 = 2;
const FS_IOC_SET_ENCRYPTION_POLICY: u32 = 0x800C_6613;
const FS_IOC_ADD_ENCRYPTION_KEY: u32 = 0xC050_6617;
const FS_IOC_REMOVE_ENCRYPTION_KEY: u32 = 0xC040_6618;
const KEY_SPEC_TYPE_IDENTIFIER: u32 = 2;
const MODE_AES_256_XTS: u8 = 1;
const MODE_AES_256_CTS: u8 = 4;
const POLICY_FLAGS_PAD_32: u8 = 3;

/// Length of a volume's master key.
pub const KEY_LEN: usize = 64;
/// The kernel's name of a master key: derived from the key, the same on every file system.
pub type KeyId = [u8; 16];

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

#[repr(C)]
struct KeySpec {
    kind: u32,
    reserved: u32,
    value: [u8; 32],
}

#[repr(C)]
struct AddKey {
    spec: KeySpec,
    raw_size: u32,
    key_id: u32,
    reserved: [u32; 8],
    raw: [u8; KEY_LEN],
}

#[repr(C)]
struct RemoveKey {
    spec: KeySpec,
    status: u32,
    reserved: [u32; 5],
}

#[repr(C)]
struct PolicyV2 {
    version: u8,
    contents: u8,
    filenames: u8,
    flags: u8,
    log2_data_unit_size: u8,
    reserved: [u8; 3],
    key_id: KeyId,
}

/// One ioctl whose argument is a pointer to `arg`.
fn call<T>(file: &File, request: u32, arg: &mut T) -> io::Result<i32> {
    // SAFETY: `file` is open for the whole call; every caller in this file passes the `repr(C)` type
    // that the kernel reads and writes for `request`, and the kernel keeps no pointer to it.
    let got = unsafe { libc::ioctl(file.as_raw_fd(), request as libc::Ioctl, std::ptr::from_mut(arg)) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got) }
}

/// The number of a loop device that is free at this moment (another process may take it first).
pub fn loop_get_free(control: &File) -> io::Result<u32> {
    call(control, LOOP_CTL_GET_FREE, &mut 0_u64).map(i32::unsigned_abs)
}

/// Puts `backing` behind the loop device `device`, to be released with the device's last user.
pub fn loop_configure(device: &File, backing: &File, name: &str) -> io::Result<()> {
    let mut file_name = [0_u8; 64];
    for (to, from) in file_name.iter_mut().take(63).zip(name.bytes()) {
        *to = from;
    }
    let mut config = LoopConfig {
        fd: backing.as_raw_fd().unsigned_abs(),
        block_size: 0,
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        sizelimit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_AUTOCLEAR,
        file_name,
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    call(device, LOOP_CONFIGURE, &mut config).map(drop)
}

/// Detaches a loop device (at once when unused, else with its last user).
pub fn loop_clear(device: &File) -> io::Result<()> {
    call(device, LOOP_CLR_FD, &mut 0_u64).map(drop)
}

/// Blocks writers and brings the file system on disk into a consistent, clean state.
pub fn freeze(dir: &File) -> io::Result<()> {
    call(dir, FIFREEZE, &mut 0_u64).map(drop)
}

/// Lets the writers of a frozen file system go on.
pub fn thaw(dir: &File) -> io::Result<()> {
    call(dir, FITHAW, &mut 0_u64).map(drop)
}

/// Stops an ext4 as a power cut would: nothing that is not on disk yet gets there.
pub fn shutdown(dir: &File) -> io::Result<()> {
    let mut flags = SHUTDOWN_NO_LOG_FLUSH;
    call(dir, EXT4_IOC_SHUTDOWN, &mut flags).map(drop)
}

/// Gives the file system that `dir` lies on a master key. Giving it again is fine.
pub fn add_key(dir: &File, key: &[u8; KEY_LEN]) -> io::Result<KeyId> {
    let mut arg = AddKey {
        spec: KeySpec { kind: KEY_SPEC_TYPE_IDENTIFIER, reserved: 0, value: [0; 32] },
        raw_size: u32::try_from(KEY_LEN).unwrap_or_default(),
        key_id: 0,
        reserved: [0; 8],
        raw: *key,
    };
    call(dir, FS_IOC_ADD_ENCRYPTION_KEY, &mut arg)?;
    arg.raw = [0; KEY_LEN];
    let mut id = KeyId::default();
    for (to, from) in id.iter_mut().zip(arg.spec.value) {
        *to = from;
    }
    Ok(id)
}

/// Takes the master key away. `true`: no file is left open with it.
pub fn remove_key(dir: &File, id: &KeyId) -> io::Result<bool> {
    let mut value = [0; 32];
    for (to, from) in value.iter_mut().zip(id) {
        *to = *from;
    }
    let spec = KeySpec { kind: KEY_SPEC_TYPE_IDENTIFIER, reserved: 0, value };
    let mut arg = RemoveKey { spec, status: 0, reserved: [0; 5] };
    call(dir, FS_IOC_REMOVE_ENCRYPTION_KEY, &mut arg)?;
    Ok(arg.status == 0)
}

/// Encrypts an empty directory, and all that will be made in it, under the key. Idempotent.
///
/// The policy asks for a key per file from the file's own nonce (no IV_INO_LBLK flag), so it
/// depends neither on inode numbers nor on the UUID of the file system and survives a copy.
pub fn set_policy(dir: &File, id: &KeyId) -> io::Result<()> {
    let mut policy = PolicyV2 {
        version: 2,
        contents: MODE_AES_256_XTS,
        filenames: MODE_AES_256_CTS,
        flags: POLICY_FLAGS_PAD_32,
        log2_data_unit_size: 0,
        reserved: [0; 3],
        key_id: *id,
    };
    call(dir, FS_IOC_SET_ENCRYPTION_POLICY, &mut policy).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(size_of::<LoopConfig>(), 304);
        assert_eq!(size_of::<AddKey>(), 80 + KEY_LEN);
        assert_eq!(size_of::<RemoveKey>(), 64);
        assert_eq!(size_of::<PolicyV2>(), 24);
    }
}
