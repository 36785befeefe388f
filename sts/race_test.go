//go:build race

package sts_test

const raceEnabled = true
