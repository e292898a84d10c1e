"""Puts a seccomp profile for containers in force and runs a program under it, by the library that runc uses too.

Usage: under_seccomp.py PROFILE as-is|kill PROGRAM [ARGUMENT...]. With `kill`, what the profile does not name ends the process instead of
failing, so that nothing is denied unnoticed. Names that no architecture of the profile knows are an error, unless the profile has
"unknown": "skipped", which no container engine looks at.
"""

import json
import os
import sys

import seccomp

COMPARISONS = {"SCMP_CMP_EQ": seccomp.EQ, "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ}
ARCHITECTURES = {"SCMP_ARCH_X86_64": seccomp.Arch.X86_64, "SCMP_ARCH_AARCH64": seccomp.Arch.AARCH64}


def action(name, errno):
    return seccomp.ALLOW if name == "SCMP_ACT_ALLOW" else {"SCMP_ACT_ERRNO": seccomp.ERRNO}[name](errno)


def argument(row):
    comparison = COMPARISONS[row["op"]]
    values = [row["value"], row["valueTwo"]] if row["op"] == "SCMP_CMP_MASKED_EQ" else [row["value"]]
    return seccomp.Arg(row["index"], comparison, *values)


def known(name, architecture):
    return seccomp.resolve_syscall(architecture, name) >= 0


def load(profile, mode):
    default = action(profile["defaultAction"], profile["defaultErrnoRet"])
    rules = seccomp.SyscallFilter(seccomp.KILL_PROCESS if mode == "kill" else default)
    for row in profile["syscalls"]:
        for name in row["names"]:
            anywhere = any(known(name, ARCHITECTURES[one]) for one in profile["architectures"])
            if not anywhere and profile.get("unknown") != "skipped":
                sys.exit(f"no such system call: {name}")
            if known(name, seccomp.Arch()):
                arguments = map(argument, row.get("args", []))
                rules.add_rule(action(row["action"], row.get("errnoRet")), name, *arguments)
    rules.load()


with open(sys.argv[1], encoding="utf-8") as file:
    load(json.load(file), sys.argv[2])
os.execvp(sys.argv[3], sys.argv[3:])
