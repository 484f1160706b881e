"""What `engaged-time` does, by Python's standard library alone: rows of COPY text in, rows of COPY text out.

    psql -c "COPY (SELECT visitor, day, at, event, source_time ... ORDER BY visitor, day, at) TO STDOUT" \
      | python3 engaged.py HEARTBEAT TOLERANCE | psql -c "COPY engaged_days FROM STDIN"

Written to be fast as such scripts go: one pass over sorted lines, no object per row, times parsed for pings alone and
the rest compared as texts. Names with a tab or a backslash in them would stay as COPY has escaped them.
"""

import sys
from datetime import datetime

NULL = "\\N"
SECOND_US = 1_000_000


def main() -> None:
    heartbeat_us, tolerance_us = (int(word) * SECOND_US for word in sys.argv[1:])
    parse = datetime.fromisoformat
    write = sys.stdout.write
    visitor = day = None
    views = pings = engaged = longest = 0
    begins = ends = None  # The window that still grows, in microseconds of the day.
    first_time = ""

    def finish() -> None:
        total, streak = engaged, longest
        if ends is not None:
            total += ends - begins
            streak = max(streak, ends - begins)
        bounced = "t" if views == 1 and pings == 0 else "f"
        write(
            f"{visitor}\t{day}\t{views}\t{pings}\t{total // SECOND_US}\t{streak // SECOND_US}"
            f"\t{bounced}\t{first_time}\n"
        )

    for line in sys.stdin:
        row_visitor, row_day, at, event, source_time = line[:-1].split("\t")
        if row_day != day or row_visitor != visitor:
            if visitor is not None:
                finish()
            visitor, day = row_visitor, row_day
            views = pings = engaged = longest = 0
            begins = ends = None
            first_time = source_time
        elif source_time < first_time:
            # Texts of times of one form sort as the times do.
            first_time = source_time
        if event == "page_ping":
            if at == NULL:
                continue
            pings += 1
            time = parse(at)
            us = ((time.hour * 60 + time.minute) * 60 + time.second) * SECOND_US + time.microsecond
            start = us - heartbeat_us if us > heartbeat_us else 0
            if ends is None:
                begins = start
            elif start - ends > tolerance_us:
                engaged += ends - begins
                if ends - begins > longest:
                    longest = ends - begins
                begins = start
            ends = us
        elif event == "page_view":
            views += 1
    if visitor is not None:
        finish()


main()
