@echo off
rem Deploy the stack of config.py: scripts/deploy for a Windows command shell; scripts\deploy.cmd destroy removes it.
setlocal
cd /d "%~dp0.." || exit /b 1
if not exist .venv\Scripts\python.exe (python -m venv .venv || exit /b 1)
.venv\Scripts\python.exe -m pip install --quiet --disable-pip-version-check --requirement requirements.txt || exit /b 1
.venv\Scripts\python.exe -m infra.deploy %*
