//go:build testclock

package main

import (
	"os"
	"strings"
	"time"
)

// clock is the time by which the server decides, in a build for tests of clocks
// that are wrong: the time and what the file in STSD_TEST_CLOCK says is to be added.
func clock() time.Time {
	now := time.Now()
	text, err := os.ReadFile(os.Getenv("STSD_TEST_CLOCK"))
	if err != nil {
		return now
	}
	off, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return now // it is being written
	}
	return now.Add(off)
}
