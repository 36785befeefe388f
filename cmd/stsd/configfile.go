package main

import (
	"os"

	"github.com/workload-sts/sts/keys"
)

// keyFile returns the absolute path of a file whose key encrypts signing keys.
func (k configCheck) keyFile(path, file string) string {
	exists, missing := k.noting()
	file = exists.existingFile(path, file)
	if *missing {
		return file
	}
	if err := keys.CheckKeyFile(file); err != nil {
		k.report(path, err.Error())
	}
	return file
}

// apart reports that a key names the file of another key.
func (k configCheck) apart(path, file, otherPath, other string) {
	if file == "" || other == "" {
		return
	}
	a, errA := os.Stat(file)
	b, errB := os.Stat(other)
	if file == other || errA == nil && errB == nil && os.SameFile(a, b) {
		k.report(path, "is the file of "+otherPath+"; each needs its own")
	}
}

// noting is k, and whether it has reported anything since.
func (k configCheck) noting() (configCheck, *bool) {
	reported := false
	return configCheck{dir: k.dir, report: func(p, m string) { reported = true; k.report(p, m) }}, &reported
}
