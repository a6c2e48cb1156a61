#!/usr/bin/env python3
"""What nvcc made of the kernels: registers, spills, shared memory, and the machine instructions by kind. Needs nvcc, not a GPU.

    tools/kernel_report.py [--arch 75,80,86,89,90,120] [--gate] [--opcodes] [--match REGEX] [FILES.cu]

Without files: gpu/*.cu and the sample kernels of tests/cuda_host. --gate prints nothing but what is wrong, and fails on any spill or
stack frame (local memory costs VRAM for all resident threads of the card). --opcodes counts SASS instructions.

Exit status: 0, 1 with findings or compile errors, 77 when there is no nvcc (CTest's "skipped")."""
import argparse
import collections
import concurrent.futures
import glob
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ARCHS = "75,80,86,89,90,120"

# Opcode: the low 9 bits of a 16-byte instruction; established by compiling one-liners and counting, on all six architectures.
OPCODES = {
    0x026: "IDP", 0x181: "LDG", 0x186: "STG", 0x184: "LDS", 0x188: "STS", 0x189: "SHFL", 0x03C: "HMMA", 0x037: "IMMA", 0x03B: "LDSM",
    0x1AE: "LDGSTS", 0x012: "LOP3", 0x016: "PRMT", 0x019: "SHF", 0x024: "IMAD", 0x025: "IMAD.WIDE",
}
SIZED = {"LDG", "STG", "LDS", "STS"}  # bits 73 to 75 hold the size
SIZES = {0: "u8", 1: "s8", 2: "u16", 3: "s16", 4: "32", 5: "64", 6: "128"}

Kernel = collections.namedtuple("Kernel", "name registers stack spill_stores spill_loads shared")


def find_nvcc():
    for path in (os.environ.get("CUDACXX"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if path and os.access(path, os.X_OK):
            return path
    return None


def demangle(names):
    if not names or not shutil.which("c++filt"):
        return dict(zip(names, names))
    text = subprocess.run(["c++filt", "-p"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, (re.sub(r"^void ", "", line) for line in text.splitlines())))


def parse_ptxas(text):
    """ptxas -v prints per kernel: "Compiling entry function 'name'", "N bytes stack frame, ...", "Used N registers, ...\""""
    kernels, name, frame = [], None, (0, 0, 0)
    for line in text.splitlines():
        if m := re.search(r"Compiling entry function '([^']+)'", line):
            name = m[1]
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            frame = tuple(map(int, m.groups()))
        elif (m := re.search(r"Used (\d+) registers", line)) and name:
            shared = re.search(r"(\d+)(?:\+\d+)? bytes smem", line)
            kernels.append(Kernel(name, int(m[1]), *frame, int(shared[1]) if shared else 0))
            name = None
    return kernels


def text_sections(cubin):
    """{kernel: bytes} of a cubin: an ELF64 file whose sections .text.<kernel> hold the instructions."""
    data = open(cubin, "rb").read()
    if data[:5] != b"\x7fELF\x02":
        raise ValueError(f"{cubin}: not an ELF64 file")
    offset, = struct.unpack_from("<Q", data, 0x28)
    entry, count, names_at = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + i * entry) for i in range(count)]
    names = headers[names_at][4]
    sections = {}
    for name, _, _, _, at, size in headers:
        end = data.index(b"\0", names + name)
        title = data[names + name:end].decode()
        if title.startswith(".text."):
            sections[title[len(".text."):]] = data[at:at + size]
    return sections


def histogram(code):
    counts = collections.Counter()
    for at in range(0, len(code) - 15, 16):
        low, high = struct.unpack_from("<QQ", code, at)
        name = OPCODES.get(low & 0x1FF)
        if name in SIZED:
            size = high >> 9 & 7
            name += "." + SIZES.get(size, str(size))
        counts[name or f"0x{low & 0x1FF:03x}"] += 1
    return counts


def compile_one(nvcc, arch, source, folder, opcodes):
    """(source, arch, kernels, {kernel: histogram}, error text)"""
    cubin = os.path.join(folder, f"{os.path.basename(source)}.{arch}.cubin")
    command = [nvcc, "-std=c++17", "-O3", f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v", "-I", ROOT, "-I", f"{ROOT}/runtime", "-o", cubin,
               source]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return source, arch, [], {}, done.stdout + done.stderr
    counts = {name: histogram(code) for name, code in text_sections(cubin).items()} if opcodes else {}
    return source, arch, parse_ptxas(done.stdout + done.stderr), counts, ""


def print_table(results, match):
    for source, arch, kernels, counts, _ in results:
        names = demangle([k.name for k in kernels])
        for k in kernels:
            title = names[k.name]
            if match and not re.search(match, title):
                continue
            print(f"sm_{arch:<4} {k.registers:4} regs {k.stack:5} stack {k.spill_stores:5} spilled {k.shared:6} shared  "
                  f"{os.path.relpath(source, ROOT)}: {title}")
            if k.name in counts:
                print("        " + "  ".join(f"{op} {n}" for op, n in counts[k.name].most_common()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default=ARCHS)
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--opcodes", action="store_true")
    parser.add_argument("--match")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count())
    parser.add_argument("files", nargs="*")
    args = parser.parse_args()
    nvcc = find_nvcc()
    if not nvcc:
        print("SKIPPED: no nvcc (CUDACXX, PATH, /usr/local/cuda/bin): the kernels were not compiled for a device")
        return 77
    files = args.files or sorted(glob.glob(f"{ROOT}/gpu/*.cu")) + [f"{ROOT}/tests/cuda_host/conformance.cu"]
    archs = args.arch.split(",")
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        work = [pool.submit(compile_one, nvcc, arch, source, folder, args.opcodes) for source in files for arch in archs]
        results = [w.result() for w in work]
    bad = 0
    for source, arch, kernels, _, error in results:
        if error:
            print(f"{os.path.relpath(source, ROOT)} for sm_{arch}:\n{error}")
            bad += 1
        names = demangle([k.name for k in kernels])
        for k in kernels:
            if k.stack or k.spill_stores or k.spill_loads:
                print(f"LOCAL MEMORY: {k.stack} bytes stack frame, {k.spill_stores} spilled, sm_{arch}, "
                      f"{os.path.relpath(source, ROOT)}: {names[k.name]}")
                bad += 1
    if not args.gate:
        print_table(results, args.match)
    total = sum(len(r[2]) for r in results)
    print(f"{total} kernels of {len(files)} files for {len(archs)} architectures: {bad} findings")
    return 1 if bad or not total else 0


if __name__ == "__main__":
    sys.exit(main())
