package main

import (
	"crypto/tls"
	"crypto/x509"
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

// pair returns the absolute paths of the files of a client certificate and its key,
// which are at cert_file and key_file below path. Both may be missing.
func (k configCheck) pair(path, certFile, keyFile string) (string, string) {
	switch {
	case certFile == "" && keyFile == "":
		return "", ""
	case certFile == "":
		k.report(path+".cert_file", "is missing; key_file is its private key")
		return "", keyFile
	case keyFile == "":
		k.report(path+".key_file", "is missing; cert_file needs its private key")
		return certFile, ""
	}
	files, missing := k.noting()
	certFile = files.existingFile(path+".cert_file", certFile)
	keyFile = files.existingFile(path+".key_file", keyFile)
	if *missing {
		return certFile, keyFile
	}
	if _, err := tls.LoadX509KeyPair(certFile, keyFile); err != nil {
		k.report(path+".cert_file", "the certificate cannot be used: "+err.Error())
	}
	return certFile, keyFile
}

// authorities returns the absolute path of a file that must hold certificates.
func (k configCheck) authorities(path, file string) string {
	exists, missing := k.noting()
	file = exists.existingFile(path, file)
	if *missing {
		return file
	}
	if pem, err := os.ReadFile(file); err != nil || !x509.NewCertPool().AppendCertsFromPEM(pem) {
		k.report(path, "holds no certificate in PEM")
	}
	return file
}

// noting is k, and whether it has reported anything since.
func (k configCheck) noting() (configCheck, *bool) {
	reported := false
	return configCheck{dir: k.dir, report: func(p, m string) { reported = true; k.report(p, m) }}, &reported
}
