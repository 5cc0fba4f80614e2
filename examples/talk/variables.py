"""Go in five minutes: variables may be explicitly typed, or implicitly typed."""

s1: str = "Jón Þór Birgisson"  # explicitly,
s2 = "Jónsi"  # or implicitly


def main() -> None:
    print(f"{s1}, or '{s2}' for short")


if __name__ == "__main__":
    main()
