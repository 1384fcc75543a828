@echo off
rem Run component.py on a Python of this device that the artifact has wheels for.
for %%V in (3.14 3.13 3.12 3.11) do (
    py -%%V "%~dp0component.py" check >nul 2>nul && (
        py -%%V -u "%~dp0component.py" %*
        exit /b
    )
)
python -u "%~dp0component.py" %*
