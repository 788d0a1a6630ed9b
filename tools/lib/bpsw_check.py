"""Compares lines of `verdicts` (number in hex, base 2, Lucas) on standard input with GMP's answers through gmpy2."""

import sys

import gmpy2


def main():
    lines, passing, wrong = 0, 0, 0
    for line in sys.stdin:
        text, base_two, lucas = line.split()
        number = gmpy2.mpz(text, 16)
        known = (gmpy2.is_strong_prp(number, 2), gmpy2.is_strong_selfridge_prp(number))
        if known != (base_two == "1", lucas == "1"):
            wrong += 1
            print(f"differs: {number}: base 2 and Lucas should be {known}, not {base_two} {lucas}", file=sys.stderr)
        lines += 1
        passing += all(known)
    print(f"{lines} numbers, {passing} pass both halves, {wrong} differ")
    return 1 if wrong or lines != int(sys.argv[1]) else 0


sys.exit(main())
