"""The tables of the travel database.

Times are minutes after local midnight; a time of 1,500 is one o'clock in the morning of the next day, as in GTFS.
Prices are whole units of the region's currency, per adult, room or meal. `origin` says where a row comes from:
`place` (a real place, coordinates approximate), `generated` (made up to be plausible), `gtfs` or `user`.
"""

from __future__ import annotations

VERSION = 1

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE currencies (code TEXT PRIMARY KEY, units_per_usd REAL NOT NULL CHECK (units_per_usd > 0));
CREATE TABLE regions (
    id TEXT PRIMARY KEY, name_en TEXT NOT NULL, name_zh TEXT NOT NULL,
    currency TEXT NOT NULL REFERENCES currencies, timezone TEXT NOT NULL);
CREATE TABLE cities (
    id TEXT PRIMARY KEY, region_id TEXT NOT NULL REFERENCES regions, name_en TEXT NOT NULL, name_zh TEXT NOT NULL,
    lat REAL NOT NULL, lon REAL NOT NULL, day_ticket INTEGER NOT NULL, origin TEXT NOT NULL);
CREATE TABLE aliases (
    alias TEXT NOT NULL, kind TEXT NOT NULL, target_id TEXT NOT NULL, PRIMARY KEY (alias, kind, target_id));
CREATE TABLE stations (
    id TEXT PRIMARY KEY, city_id TEXT REFERENCES cities, name_en TEXT NOT NULL, name_zh TEXT NOT NULL,
    lat REAL NOT NULL, lon REAL NOT NULL, origin TEXT NOT NULL);
CREATE INDEX stations_by_city ON stations (city_id);
CREATE TABLE lines (
    id TEXT PRIMARY KEY, mode TEXT NOT NULL, name_en TEXT NOT NULL, name_zh TEXT NOT NULL,
    timezone TEXT NOT NULL, currency TEXT NOT NULL, base_fare REAL NOT NULL, fare_per_km REAL NOT NULL,
    fares TEXT NOT NULL, origin TEXT NOT NULL);
CREATE TABLE calendars (
    id TEXT PRIMARY KEY, weekdays TEXT NOT NULL, first_date TEXT NOT NULL, last_date TEXT NOT NULL);
CREATE TABLE calendar_dates (
    calendar_id TEXT NOT NULL REFERENCES calendars, date TEXT NOT NULL, runs INTEGER NOT NULL,
    PRIMARY KEY (calendar_id, date));
CREATE TABLE services (
    id TEXT PRIMARY KEY, line_id TEXT NOT NULL REFERENCES lines, calendar_id TEXT NOT NULL REFERENCES calendars,
    number TEXT NOT NULL);
CREATE INDEX services_by_calendar ON services (calendar_id);
CREATE TABLE calls (
    service_id TEXT NOT NULL REFERENCES services, seq INTEGER NOT NULL, station_id TEXT NOT NULL REFERENCES stations,
    arrive INTEGER NOT NULL, depart INTEGER NOT NULL, boards INTEGER NOT NULL, alights INTEGER NOT NULL,
    PRIMARY KEY (service_id, seq)) WITHOUT ROWID;
CREATE INDEX calls_by_station ON calls (station_id);
CREATE TABLE fares (
    line_id TEXT NOT NULL REFERENCES lines, from_id TEXT NOT NULL, to_id TEXT NOT NULL, price INTEGER NOT NULL,
    PRIMARY KEY (line_id, from_id, to_id)) WITHOUT ROWID;
CREATE TABLE transfers (
    from_id TEXT NOT NULL, to_id TEXT NOT NULL, minutes INTEGER NOT NULL, PRIMARY KEY (from_id, to_id)) WITHOUT ROWID;
CREATE TABLE sights (
    id TEXT PRIMARY KEY, city_id TEXT NOT NULL REFERENCES cities, name_en TEXT NOT NULL, name_zh TEXT NOT NULL,
    lat REAL NOT NULL, lon REAL NOT NULL, themes TEXT NOT NULL, minutes INTEGER NOT NULL, ticket INTEGER NOT NULL,
    popularity INTEGER NOT NULL, setting TEXT NOT NULL, origin TEXT NOT NULL);
CREATE INDEX sights_by_city ON sights (city_id);
CREATE TABLE hours (
    place_id TEXT NOT NULL, weekday INTEGER NOT NULL, opens INTEGER NOT NULL, closes INTEGER NOT NULL,
    PRIMARY KEY (place_id, weekday, opens)) WITHOUT ROWID;
CREATE TABLE closures (place_id TEXT NOT NULL, date TEXT NOT NULL, PRIMARY KEY (place_id, date)) WITHOUT ROWID;
CREATE TABLE stays (
    id TEXT PRIMARY KEY, city_id TEXT NOT NULL REFERENCES cities, name_en TEXT NOT NULL, name_zh TEXT NOT NULL,
    lat REAL NOT NULL, lon REAL NOT NULL, kind TEXT NOT NULL, stars INTEGER NOT NULL, rating REAL NOT NULL,
    sleeps INTEGER NOT NULL, rooms INTEGER NOT NULL, price INTEGER NOT NULL, weekend_price INTEGER NOT NULL,
    checkin_from INTEGER NOT NULL, checkin_until INTEGER NOT NULL, features TEXT NOT NULL, origin TEXT NOT NULL);
CREATE INDEX stays_by_city ON stays (city_id);
CREATE TABLE full_nights (
    stay_id TEXT NOT NULL REFERENCES stays, date TEXT NOT NULL, PRIMARY KEY (stay_id, date)) WITHOUT ROWID;
CREATE TABLE restaurants (
    id TEXT PRIMARY KEY, city_id TEXT NOT NULL REFERENCES cities, name_en TEXT NOT NULL, name_zh TEXT NOT NULL,
    lat REAL NOT NULL, lon REAL NOT NULL, cuisines TEXT NOT NULL, diets TEXT NOT NULL, price INTEGER NOT NULL,
    rating REAL NOT NULL, origin TEXT NOT NULL);
CREATE INDEX restaurants_by_city ON restaurants (city_id);
"""
