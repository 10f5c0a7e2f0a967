//! Which StorageClasses are known to encrypt.
