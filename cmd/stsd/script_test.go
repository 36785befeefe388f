package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts/resource"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"stsd": func() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the commands as an operator does; see testdata.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each process waits a second
			return nil
		},
	})
}

// TestExampleConfiguration holds that the configuration that is shipped has only
// keys that exist.
func TestExampleConfiguration(t *testing.T) {
	data, err := os.ReadFile("../../deploy/stsd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c := &stsv1.ServerConfig{}
	if _, problems := resource.Decode("stsd.yaml", data, c); len(problems) > 0 {
		t.Error(problems)
	}
	if c.Issuer == "" || c.Http.Tls.CertFile == "" || c.Audit.File == "" {
		t.Errorf("the example leaves out what is required: %v", c)
	}
}
