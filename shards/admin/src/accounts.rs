//! Users and groups of the machine, by name and by number.
//!
//! Invariants: what is asked here may wait for a server of names (NIS, LDAP), so nothing is asked on the services thread.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::MaybeUninit;
use std::ptr;

/// Bytes for what the system knows of an account, at first and at most: a group names all of its members.
const BYTES_FIRST: usize = 1_024;
const BYTES_MAX: usize = 1 << 20;

/// A user or a group that may do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A user, by number.
    User(u32),
    /// Whoever is in a group, by number.
    Group(u32),
}

impl Principal {
    /// Finds a user by name, or a group by `@name`; numbers do as well. May wait for a server of names.
    ///
    /// # Errors
    /// If the system knows none of that name, in words.
    pub fn find(name: &str) -> Result<Self, String> {
        match name.strip_prefix('@') {
            Some(group) => {
                let number = group.parse().ok().or_else(|| group_of_name(group));
                number.map(Self::Group).ok_or_else(|| format!("this machine has no group {group:?}"))
            }
            None => {
                let number = name.parse().ok().or_else(|| user_of_name(name));
                number.map(Self::User).ok_or_else(|| format!("this machine has no user {name:?}"))
            }
        }
    }
}

/// The name of a user; nothing if the system knows none. May wait for a server of names.
pub(crate) fn name_of_user(uid: u32) -> Option<String> {
    let ask = |entry: *mut libc::passwd, bytes: *mut c_char, length, found: *mut *mut libc::passwd| {
        // SAFETY: entry, buffer and result are writable and live through the call, and the length is the buffer's.
        unsafe { libc::getpwuid_r(uid, entry, bytes, length, found) }
    };
    look_up(ask, |entry: &libc::passwd| {
        // SAFETY: an entry that was found has a name that ends with a zero, in the buffer, which still lives.
        unsafe { CStr::from_ptr(entry.pw_name) }.to_string_lossy().into_owned()
    })
}

fn user_of_name(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let ask = |entry: *mut libc::passwd, bytes: *mut c_char, length, found: *mut *mut libc::passwd| {
        // SAFETY: as above, and the name ends with a zero.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, bytes, length, found) }
    };
    look_up(ask, |entry: &libc::passwd| entry.pw_uid)
}

fn group_of_name(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let ask = |entry: *mut libc::group, bytes: *mut c_char, length, found: *mut *mut libc::group| {
        // SAFETY: as above, and the name ends with a zero.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, bytes, length, found) }
    };
    look_up(ask, |entry: &libc::group| entry.gr_gid)
}

/// Asks with a buffer that grows until the answer fits, and takes from the entry what is wanted of it.
fn look_up<E, T>(
    ask: impl Fn(*mut E, *mut c_char, usize, *mut *mut E) -> c_int,
    take: impl FnOnce(&E) -> T,
) -> Option<T> {
    let mut buffer = vec![0; BYTES_FIRST];
    loop {
        let mut entry = MaybeUninit::<E>::uninit();
        let mut found = ptr::null_mut();
        match ask(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found) {
            libc::ERANGE if buffer.len() < BYTES_MAX => buffer.resize(buffer.len() * 2, 0),
            libc::EINTR => {}
            0 if !found.is_null() => {
                // SAFETY: the call has filled the entry and says so by pointing at it.
                return Some(take(unsafe { &*found }));
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        for (name, expected) in [
            ("root", Ok(Principal::User(0))),
            ("@root", Ok(Principal::Group(0))),
            ("4711", Ok(Principal::User(4711))),
            ("@4712", Ok(Principal::Group(4712))),
            ("nobody-of-this-name", Err("this machine has no user \"nobody-of-this-name\"".to_owned())),
            ("@nobody-of-this-name", Err("this machine has no group \"nobody-of-this-name\"".to_owned())),
            ("a\0b", Err("this machine has no user \"a\\0b\"".to_owned())),
        ] {
            assert_eq!(Principal::find(name), expected, "{name:?}");
        }
        assert_eq!(name_of_user(0).as_deref(), Some("root"));
        assert_eq!(name_of_user(u32::MAX - 7), None);
    }
}
