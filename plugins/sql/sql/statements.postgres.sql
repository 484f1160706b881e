-- statement: statement 1 of 2
--   reads derived.d, atomic.events, derived.manifest, scratch.sessions__ids
--   writes derived.v
DELETE FROM derived.v;

-- statement: statement 2 of 2
--   reads derived.d, atomic.events, derived.manifest, scratch.sessions__ids
--   writes derived.v
INSERT INTO derived.v SELECT ';' FROM scratch.sessions__ids, atomic.events;

