//go:build !race

package policy

// slack is how much longer than it must be something may take in a test: a busy
// machine has colder caches.
const slack = 2
