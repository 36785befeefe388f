//go:build !testclock

package main

import "time"

// clock is the time by which the server decides.
func clock() time.Time { return time.Now() }
