"""What `engaged-time` does, by Python's standard library alone: rows as CSV in, rows as CSV out, from COPY to COPY.

    psql -c "COPY (SELECT visitor, day, at, event, source_time ... ORDER BY visitor, day, at) TO STDOUT (FORMAT csv)" \
      | python3 engaged.py HEARTBEAT TOLERANCE | psql -c "COPY engaged_days FROM STDIN (FORMAT csv)"

One pass over sorted rows in bounded memory, with the standard library's parsers, which are written in C: as a team would
write it that cares for both its rows and its time.
"""

import csv
import sys
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter

ZERO = timedelta()
SECOND = timedelta(seconds=1)


def engaged_day(day, rows, heartbeat, tolerance):
    """Returns the columns after the key for one visitor's day. Pings come in order of time."""
    midnight = datetime.fromisoformat(day)
    views = pings = 0
    engaged = longest = ZERO
    begins = ends = None  # The window that still grows.
    first_time = None
    for _, _, at, event, source_time in rows:
        source_time = datetime.fromisoformat(source_time)
        if first_time is None or source_time < first_time:
            first_time = source_time
        if event == "page_ping" and at:
            pings += 1
            at = datetime.fromisoformat(at)
            start = max(at - heartbeat, midnight)
            if ends is None or start - ends > tolerance:
                if ends is not None:
                    engaged += ends - begins
                    longest = max(longest, ends - begins)
                begins = start
            ends = at
        elif event == "page_view":
            views += 1
    if ends is not None:
        engaged += ends - begins
        longest = max(longest, ends - begins)
    bounced = views == 1 and pings == 0
    return views, pings, engaged // SECOND, longest // SECOND, bounced, first_time


def main():
    heartbeat, tolerance = (timedelta(seconds=int(word)) for word in sys.argv[1:])
    write = csv.writer(sys.stdout, lineterminator="\n").writerow
    for key, rows in groupby(csv.reader(sys.stdin), itemgetter(0, 1)):
        write((*key, *engaged_day(key[1], rows, heartbeat, tolerance)))


main()
