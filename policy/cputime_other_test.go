//go:build !linux

package policy

import "time"

// cpuTime is how long f takes; other systems do not say what a thread used.
func cpuTime(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}
