//! Users and groups of the system, by name or number.

use anyhow::{Context, Result, anyhow, bail};
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;

/// Bytes that the answer about a user or group may take: a group names its members.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A user, and the group that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Account {
    /// Its name, or its number where it has none.
    pub(super) name: String,
    pub(super) user: u32,
    pub(super) group: u32,
    /// Whether the system knows it, and so which further groups it is in.
    is_known: bool,
}

impl Account {
    /// Looks up the user and, if one is given, the group.
    pub(super) fn find(user: &str, group: Option<&str>) -> Result<Self> {
        let known = user_by_name(user).with_context(|| format!("server.user: {user:?} can't be looked up"))?;
        let known = match (known, user.parse()) {
            (Some(known), _) => Some(known),
            (None, Ok(number)) => {
                user_by_number(number).with_context(|| format!("server.user: {user:?} can't be looked up"))?
            }
            (None, Err(_)) => bail!("server.user: there is no user {user:?}: useradd --system {user}"),
        };
        let group = group.map(group_number).transpose()?;
        match (known, group) {
            (Some(known), group) => Ok(Self { group: group.unwrap_or(known.group), ..known }),
            (None, Some(group)) => {
                // Only a number gets here: of a name that nobody has it was said above.
                let number = user.parse().map_err(|_| anyhow!("server.user: there is no user {user:?}"))?;
                Ok(Self { name: user.to_owned(), user: number, group, is_known: false })
            }
            (None, None) => bail!("server.user: no user has the number {user}, and so no group: give server.group"),
        }
    }

    /// Makes the process this user, for good.
    pub(super) fn become_it(&self) -> Result<()> {
        let failed = |what: &str| format!("{what} of {}, who is server.user, can't be taken", self.name);
        let groups = if self.is_known {
            let name = CString::new(&*self.name).context("server.user")?;
            // SAFETY: the name is a string that ends with zero, and lives through the call.
            unsafe { libc::initgroups(name.as_ptr(), self.group) }
        } else {
            // SAFETY: one group is read, from a place that lives through the call.
            unsafe { libc::setgroups(1, &raw const self.group) }
        };
        succeeded(groups).with_context(|| failed("the groups"))?;
        // SAFETY: the calls take integers, and there is no other thread that could miss the change.
        let (group, user) = unsafe {
            let group = libc::setresgid(self.group, self.group, self.group);
            (succeeded(group), libc::setresuid(self.user, self.user, self.user))
        };
        group.with_context(|| failed("the group"))?;
        succeeded(user).with_context(|| failed("the number"))
    }
}

fn succeeded(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn group_number(group: &str) -> Result<u32> {
    let name = CString::new(group).context("server.group")?;
    let found = answer(|entry: *mut libc::group, buffer, length, found| {
        // SAFETY: as `answer` promises.
        unsafe { libc::getgrnam_r(name.as_ptr(), entry, buffer, length, found) }
    });
    let found = found.with_context(|| format!("server.group: {group:?} can't be looked up"))?;
    match (found, group.parse()) {
        (Some((entry, _buffer)), _) => Ok(entry.gr_gid),
        (None, Ok(number)) => Ok(number),
        (None, Err(_)) => bail!("server.group: there is no group {group:?}: groupadd --system {group}"),
    }
}

fn user_by_name(name: &str) -> Result<Option<Account>> {
    let name = CString::new(name)?;
    let found = answer(|entry: *mut libc::passwd, buffer, length, found| {
        // SAFETY: as `answer` promises.
        unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found) }
    });
    Ok(found?.map(account))
}

fn user_by_number(number: u32) -> Result<Option<Account>> {
    let found = answer(|entry: *mut libc::passwd, buffer, length, found| {
        // SAFETY: as `answer` promises.
        unsafe { libc::getpwuid_r(number, entry, buffer, length, found) }
    });
    Ok(found?.map(account))
}

fn account((entry, _buffer): (libc::passwd, Vec<u8>)) -> Account {
    // SAFETY: the name points into the buffer, which is there until the end of the function, and ends with zero.
    let name = unsafe { CStr::from_ptr(entry.pw_name) }.to_string_lossy().into_owned();
    Account { name, user: entry.pw_uid, group: entry.pw_gid, is_known: true }
}

/// Asks the system for an entry, with a buffer that grows until the answer fits. The question gets a place for the entry, a
/// buffer with its length, and a place for a pointer, all of them valid through the call.
fn answer<T>(
    question: impl Fn(*mut T, *mut libc::c_char, usize, *mut *mut T) -> libc::c_int,
) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut length = 4096;
    loop {
        let mut buffer = vec![0u8; length];
        let (mut entry, mut found) = (MaybeUninit::<T>::uninit(), std::ptr::null_mut());
        match question(entry.as_mut_ptr(), buffer.as_mut_ptr().cast(), length, &raw mut found) {
            libc::ERANGE if length < ANSWER_BYTES_MAX => length *= 4,
            // Some sources of names say so of what they don't know.
            0 | libc::ENOENT | libc::ESRCH if found.is_null() => return Ok(None),
            // SAFETY: `found` is not null, so the entry has been filled in.
            0 => return Ok(Some((unsafe { entry.assume_init() }, buffer))),
            error => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(user: &str, group: Option<&str>, wanted: Result<(&str, u32, u32), &str>) {
        let found = Account::find(user, group).map(|account| (account.name, account.user, account.group));
        let wanted = wanted.map(|(name, user, group)| (name.to_owned(), user, group)).map_err(str::to_owned);
        assert_eq!(found.map_err(|error| format!("{error:#}")), wanted);
    }

    #[test]
    fn users_and_groups_by_name_and_number() {
        check("root", None, Ok(("root", 0, 0)));
        check("0", None, Ok(("root", 0, 0)));
        check("root", Some("4321"), Ok(("root", 0, 4321)));
        check("0", Some("root"), Ok(("root", 0, 0)));
        check("43210", Some("4321"), Ok(("43210", 43210, 4321)));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let nobody = "server.user: there is no user \"no-such-user\": useradd --system no-such-user";
        check("no-such-user", None, Err(nobody));
        check("no-such-user", Some("root"), Err(nobody));
        let group = "server.group: there is no group \"no-such-group\": groupadd --system no-such-group";
        check("root", Some("no-such-group"), Err(group));
        check("43210", None, Err("server.user: no user has the number 43210, and so no group: give server.group"));
    }
}
